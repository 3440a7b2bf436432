"""The templates of the pages, in the folder templates."""

import jinja2


def template(name: str) -> jinja2.Template:
    """A template by the name of its file; what it is given is escaped, and a value that is missing is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template(name)
