"""Pairs of texts for tests: numbers in German and English, and what was bought in a text."""

import json

GERMAN = ("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun")
ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def numbers(first, count):
    """Numbers of one to four digits, no two alike."""
    return [[int(digit) for digit in str((n * 7919) % 10_000)] for n in range(first, first + count)]


def write_translations(folder, train=160, validation=12, test=16):
    """train, val and test_numbers, each as .de and .en; the digits are read in the same order."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 1
    for part, count in (("train", train), ("val", validation), ("test_numbers", test)):
        for suffix, words in (("de", GERMAN), ("en", ENGLISH)):
            lines = [" ".join(words[digit] for digit in digits) + " ." for digits in numbers(first, count)]
            (folder / f"{part}.{suffix}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        first += count
    return folder


def write_summaries(folder, train=60, validation=8, test=8):
    """train, dev and test.jsonl: two sentences, and one or two summaries."""
    folder.mkdir(parents=True, exist_ok=True)
    first = 1
    for part, count in (("train", train), ("dev", validation), ("test", test)):
        with open(folder / f"{part}.jsonl", "w", encoding="utf-8") as file:
            for digits in numbers(first, count):
                word = ENGLISH[digits[0]]
                source = [f"Anna went to the market and bought {word} apples.", "Then she went home."]
                target = [f"Anna bought {word} apples.", f"{word} apples were bought."][: 1 + digits[0] % 2]
                file.write(json.dumps({"source": source, "target": target}) + "\n")
        first += count
    return folder
