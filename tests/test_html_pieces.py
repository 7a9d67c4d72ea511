"""Whatever a template prints is cleaned and escaped; the pieces that report and Space share."""

import pytest
from markupsafe import Markup

from hub_cards.html_pieces import TEMPLATES, percent, title_of

PIECES = TEMPLATES.get_template("pieces.html").module


def test_a_template_cleans_and_escapes_every_text():
    template = TEMPLATES.from_string('<p title="{{ text }}">{{ text }}</p>\n<p>{{ ours }}</p>')
    page = template.render(text="<b>\n'a'\x00 \u202e\"b\"" + "c" * 2000, ours=Markup("<i>x</i>"))
    first, _, rest = page.partition("</p>")
    assert "<b>" not in page and "\x00" not in page and "\u202e" not in page and "\n" not in page
    assert first.startswith('<p title="&lt;b&gt; &#39;a&#39; &#34;b&#34;ccc') and first.count("c") < 2100
    assert rest == "<p><i>x</i></p>"


@pytest.mark.parametrize(("share", "width"), [(-1, "0.0"), (0.125, "12.5"), (2, "100.0")])
def test_a_bar_stays_inside_its_frame(share, width):
    assert f"width:{width}%" in PIECES.bar(share)
    assert "<b>&lt;1%</b>" in PIECES.score(share, "<1%")


@pytest.mark.parametrize(("rating", "full"), [(0, 0), (2.6, 3), (5, 5), (9, 5)])
def test_stars_are_five(rating, full):
    stars = PIECES.stars(rating)
    assert stars.count("&#9733;") == full and stars.count("&#9734;") == 5 - full
    assert "not rated" in PIECES.stars(None)


@pytest.mark.parametrize(
    ("share", "words"), [(0.5, "50%"), (0.0995, "10%"), (0.05, "5.0%"), (0.005, "0.50%"), (0.00001, "<0.01%")]
)
def test_a_probability_has_two_digits_that_count(share, words):
    assert percent(share) == words


def test_a_title_is_the_first_text_there_is():
    assert title_of({"item_id": "1", "brand": "A", "name": "Mug"}, ["brand"], 9) == "Mug"
    assert title_of({"item_id": "1", "price": 3, "brand": "A"}, ["price", "brand"], 9) == "A"
    assert title_of({"item_id": "1"}, ["brand"], 9) == "1"
    assert title_of({"item_id": None}, [], 99) == "item without a title"
