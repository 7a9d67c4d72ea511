"""H&M Personalized Fashion Recommendations (Kaggle layout) to the two tables.

python -m recipes.h_and_m.prepare --data_dir ../data/h-and-m --output_dir data/h-and-m

Reads articles.csv, transactions_train.csv and images/<first 3 digits>/<article_id>.jpg; there are no ratings.
"""

from typing import Any

from recipes.raw_tables import PreparationArguments, RawTables, parse_arguments

# The order is the order in the model's text: what tells articles apart comes first.
ATTRIBUTES = {
    "title": "prod_name",
    "category": "product_type_name",
    "product_group": "product_group_name",
    "colour": "colour_group_name",
    "appearance": "graphical_appearance_name",
    "department": "department_name",
    "section": "section_name",
    "index": "index_name",
    "product_code": "product_code",  # the same for all colours of an article
}


# DuckDB also reads "1_000", "2020-09-01 (BC)" and years of six digits.
_DAY = r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.]+)?\s*"
_NUMBER = r"\s*\+?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*"
_MAX_PRICE = 1e15  # beyond it a mean may be infinite


def _as_written(column: str, pattern: str, kind: str) -> str:
    """SQL: the cell as another kind, NULL where it is not written so."""
    return f"CASE WHEN regexp_full_match({column}, '{pattern}') THEN TRY_CAST({column} AS {kind}) END"


def prepare(arguments: PreparationArguments) -> dict[str, Any]:
    """Writes the two tables and returns the account of what was read and removed.

    An article that a customer buys several times on one day is a quantity and becomes one event; bought again on a
    later day it is a second event. `t_dat` is a day, so the timestamp is its midnight (UTC) plus one second for each
    article this customer bought before on that day, in the order of the file. `price` is the mean over all purchases
    of the article in the publisher's scaled unit (0.05 is not money); prices that are no number above 0 are counted
    and left out of it. `domain` is the index group (Ladieswear, ...).
    """
    with RawTables(arguments, "h-and-m") as tables:
        path = tables.source("transactions_train.csv")
        transactions = tables.csv_rows(path, ("t_dat", "customer_id", "article_id", "price"), "transactions")
        tables.run(
            f"CREATE TABLE purchases AS SELECT {_as_written('t_dat', _DAY, 'DATE')} AS day, "
            "id_of_cell(customer_id) AS customer_id, id_of_cell(article_id) AS article_id, price, "
            f"{_as_written('price', _NUMBER, 'DOUBLE')} AS number FROM {transactions}",
            "purchases",
        )
        tables.count("read", "transactions", purchases := tables.number("SELECT count(*) FROM purchases"))
        unpriced = f"price IS NOT NULL AND NOT coalesce(number > 0 AND number < {_MAX_PRICE}, false)"
        tables.count_where(
            "changed", "prices that are no number above 0 left out of the mean", "purchases", unpriced, "price"
        )
        tables.run(
            "CREATE TABLE events AS SELECT customer_id AS user_id, article_id AS item_id, epoch(day) - 1 + "
            "row_number() OVER (PARTITION BY customer_id, day ORDER BY first_row) AS timestamp FROM "
            "(SELECT customer_id, article_id, day, min(rowid) AS first_row FROM purchases GROUP BY ALL) "
            "ORDER BY first_row",
            "one event an article, customer and day",
        )
        merged = purchases - tables.number("SELECT count(*) FROM events")
        tables.count("removed", "repeated purchases of an article on the same day (a quantity)", merged)
        tables.drop_incomplete()
        tables.keep_core()

        path = tables.source("articles.csv")
        columns = ("article_id", "detail_desc", "index_group_name", *ATTRIBUTES.values())
        articles = tables.csv_rows(path, columns, "articles")
        named = ", ".join(f'{column} AS "{name}"' for name, column in ATTRIBUTES.items())
        tables.run(
            f"CREATE TABLE items AS SELECT item_id, {named}, prices.price, detail_desc AS description, "
            f"index_group_name AS domain FROM (SELECT *, id_of_cell(article_id) AS item_id FROM {articles}) LEFT JOIN "
            "(SELECT article_id AS sold, round(avg(number), 4) AS price FROM purchases "
            f"WHERE NOT ({unpriced}) GROUP BY article_id) prices ON item_id = sold ORDER BY item_id",
            "articles",
        )
        tables.count("read", "articles", tables.number("SELECT count(*) FROM items"))
        tables.choose_items()
        tables.match_pictures(tables.data_dir / "images")
        return tables.write()


if __name__ == "__main__":
    prepare(parse_arguments(PreparationArguments))
