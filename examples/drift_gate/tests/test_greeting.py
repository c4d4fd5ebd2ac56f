from pathlib import Path


def test_the_greeting_is_friendly():
    assert Path("/usr/share/greeting/text").read_text().startswith("hello")
