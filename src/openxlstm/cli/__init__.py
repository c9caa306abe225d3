"""The command line: thin verbs over the library. `main` is the entry point."""
