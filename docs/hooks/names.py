"""Names for a screen reader, where the theme gives none: its search."""

NAMELESS = {
    '<div class="md-search" data-md-component="search" role="dialog">': "Search",
    '<input class="md-toggle" data-md-toggle="search" type="checkbox" id="__search" autocomplete="off">': "Search",
    '<input class="md-toggle" data-md-toggle="drawer" type="checkbox" id="__drawer" autocomplete="off">': "Navigation",
}


def on_post_page(output: str, **_: object) -> str:
    """The page with those parts named. Where the theme writes them otherwise, tests/test_docs.py fails."""
    for part, name in NAMELESS.items():
        output = output.replace(part, f'{part[:-1]} aria-label="{name}">')
    return output


on_post_template = on_post_page  # of the page that a server shows for a wrong address
