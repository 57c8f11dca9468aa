"""Make outside text safe for a terminal, a log or an error message."""


def printable(text: str) -> str:
    r"""Return the text with each character that is not printable escaped.

    Control characters could move the cursor, set the terminal's title, or start a line that looks
    like the program's own; others reverse the direction of the text that follows.

    >>> print(printable("bed-7\n\x1b[2J\u202e"))
    bed-7\n\x1b[2J\u202e
    """
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
