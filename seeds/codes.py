"""Unified social credit codes: GB 32100, with the organisation code's own check of GB 11714."""

ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_WEIGHTS = [pow(3, i, 31) for i in range(17)]
_ORGANISATION_WEIGHTS = (3, 7, 9, 10, 5, 8, 4, 2)


def organisation_check(body):
    """The ninth character of an organisation code, from its first eight (GB 11714)."""
    total = sum(int(char, 36) * weight for char, weight in zip(body, _ORGANISATION_WEIGHTS))
    return "0123456789X0"[11 - total % 11]


def credit_check(body):
    """The eighteenth character of a credit code, from its first seventeen (GB 32100)."""
    total = sum(ALPHABET.index(char) * weight for char, weight in zip(body, _WEIGHTS))
    return ALPHABET[-total % 31]


def credit_code(prefix, division, serial):
    """A code in the block MA00nnnn, which no registry of Nantong has issued as far as is known."""
    organisation = f"MA00{serial:04d}"
    body = prefix + division + organisation + organisation_check(organisation)
    return body + credit_check(body)


def misissued(code):
    """The same code with a wrong last character."""
    return code[:17] + ALPHABET[(ALPHABET.index(code[17]) + 1) % 31]


def fault(code):
    """What is wrong with a code, or None."""
    if len(code) != 18 or any(char not in ALPHABET for char in code):
        return "18 characters of the alphabet of GB 32100 are required"
    if not code[2:8].isdigit():
        return "characters 3 to 8 are not digits"
    if organisation_check(code[8:16]) != code[16]:
        return "check character 17 is wrong"
    if credit_check(code[:17]) != code[17]:
        return "check character 18 is wrong"
    return None
