"""Figures that pages print: lines of a command's output, compared or replaced by those of another run."""

import re

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_PART = re.compile(rf"({_NUMBER.pattern})|(─+)|(\s+)")


def same_line(line: str) -> re.Pattern[str]:
    """Returns a pattern of lines that begin as a line does, but for numbers and spaces."""
    parts, end = [r"\s*"], 0
    text = line.strip()
    for found in _PART.finditer(text):
        other = _NUMBER.pattern if found[1] else "─+" if found[2] else r"\s+"
        parts += [re.escape(text[end : found.start()]), other]
        end = found.end()
    return re.compile("".join([*parts, re.escape(text[end:])]))


def fresh_lines(shown: str, output: str) -> str:
    """Returns the lines of a page as an output has them: the last ones that differ in numbers alone.

    A page may show the beginning of a line.

    Raises:
      ValueError: naming a line that the output lacks.
    """
    printed, fresh, at = output.splitlines(), [], 0
    for line in shown.splitlines():
        pattern = same_line(line)
        places = [place for place, each in enumerate(printed) if line.strip() and pattern.match(each)]
        if line.strip() and not places:
            raise ValueError(f"the output must have a line such as {line.strip()!r}")
        if places:  # rules are alike: take the next one
            at = (
                places[-1]
                if re.search(r"\w", line)
                else min((each for each in places if each > at), default=places[-1])
            )
        fresh.append(pattern.match(printed[at])[0].rstrip() if places else "")
    return "".join(f"{line}\n" for line in fresh)


def numbers(text: str) -> list[float]:
    """Returns all numbers of a text in order."""
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)]
