"""The Gradio Space over a trained model: `python -m hub_cards.space.app`.

app.py              the page, the endpoints, the command line
tabs.py             layout and events of each tab
page_state.py       state that all parts of the page share, and events on items
panels.py           answers as HTML; templates panels.html and products.html, style style.css
product_cards.py    items as HTML
answers.py          requests to answers in plain JSON: the endpoints
stopping.py         answers that end when their request is abandoned or takes too long
request_limits.py   what of a request reaches the app
shoppers.py         histories to choose from
"""
