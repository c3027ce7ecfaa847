from safemirage.text.characters import half_character, mended


def test_halves_of_characters_are_found_and_mended() -> None:
    assert half_character("nice \ud83d cup") == 5
    assert half_character("\udc4d") == 0
    assert half_character("nice \U0001f44d cup") is None
    assert mended("nice \ud83d cup\udc4d") == "nice \ufffd cup\ufffd"
    assert mended("nice \U0001f44d é cup") == "nice \U0001f44d é cup"
    assert mended("\ud83d\udc4d") == "\U0001f44d", "two halves make a whole"
