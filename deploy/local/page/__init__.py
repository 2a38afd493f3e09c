"""The page of the trial stack: a demo site to click through, and beside it what became of it, live.

    server.py    a small HTTP server: static files and one JSON document
    figures.py   the document: asked of ClickHouse, of the consumer's metrics and of `make run`
    queries.py   what ClickHouse is asked
    static/      the page (index, live), the demo site (site), and its event script (stand-in)

The browser asks for the document once a second; however many browsers do, the sources are asked
once. Everything a visitor could have sent is put into the page as text, never as markup.
"""
