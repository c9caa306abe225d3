"""Reviews for tests: made-up sentences whose sentiment is that of one word."""

import random
from pathlib import Path

GOOD = ("splendid", "charming", "gripping", "wise")
BAD = ("dull", "clumsy", "tedious", "hollow")
THINGS = ("film", "plot", "cast", "score", "ending")


def sentences(number: int, seed: int = 0) -> list[tuple[str, int]]:
    """Different sentences of 3 to 12 words with their labels, 0 and 1 in turn."""
    rng = random.Random(seed)
    found: dict[str, int] = {}
    while len(found) < number:
        label = len(found) % 2
        filler = [rng.choice(("the", "a", "this", "and", "of", "it", "was", *THINGS)) for _ in range(rng.randint(2, 11))]
        filler.insert(rng.randint(0, len(filler)), rng.choice((BAD, GOOD)[label]))
        found.setdefault(" ".join(filler), label)
    return list(found.items())


def write_sst2(folder: Path, number: int = 120) -> Path:
    """The two layouts of SST-2 side by side: whole sentences in three files, phrases in one."""
    (folder / "sentences").mkdir(parents=True)
    (folder / "glue").mkdir()
    rows = sentences(number)
    for name, part in (("train", rows[: number // 2]), ("dev", rows[number // 2 : -30]), ("test", rows[-30:])):
        text = "".join(f"{label} {sentence}\n" for sentence, label in part)
        (folder / "sentences" / f"stsa.binary.{name}").write_text(text, encoding="utf-8")
    phrases = [*sentences(40, seed=1), rows[-1]]  # one of them is a test sentence
    table = "sentence\tlabel\n" + "".join(f'{sentence} "\t{label}\n' for sentence, label in phrases[:-1])
    (folder / "glue" / "train.tsv").write_text(table + f"{phrases[-1][0].upper()} \t{phrases[-1][1]}\n", encoding="utf-8")
    return folder


def write_table(path: Path, number: int = 90, header: str = "id,label,text") -> Path:
    """A CSV file; the texts are quoted and have commas in them."""
    names = ("thumbs down", "thumbs up")
    rows = [f'{n},{names[label]},"Well, {text}."' for n, (text, label) in enumerate(sentences(number))]
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def write_imdb(folder: Path, number: int = 40) -> Path:
    """The layout of aclImdb."""
    for part in ("train", "test"):
        for count, (text, label) in enumerate(sentences(number, seed=len(part))):
            place = folder / part / ("neg", "pos")[label] / f"{count}_{1 + 9 * label}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(f"{text.capitalize()}.<br /><br />That's all!", encoding="utf-8")
    return folder


def write_rotten_tomatoes(folder: Path, number: int = 40) -> Path:
    """Two files, one a class, not in UTF-8."""
    folder.mkdir(exist_ok=True)
    for label, name in enumerate(("neg", "pos")):
        lines = [
            f"{text} \N{EN DASH} clich\N{LATIN SMALL LETTER E WITH ACUTE} \n" for text, own in sentences(number) if own == label
        ]
        (folder / f"rt-polarity.{name}").write_text("".join(lines), encoding="cp1252")
    return folder
