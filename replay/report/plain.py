"""Make text from a recording safe to print: one line, and nothing that a terminal would obey."""


def printable(text: str) -> str:
    r"""Return text on one line and harmless to a terminal: control characters become backslash escapes.

    >>> print(printable("boot" + chr(27) + "[2J"))
    boot\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
