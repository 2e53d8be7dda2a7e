"""How often the report's verdict is wrong: on runs that are right, and on runs that are wrong in a known way."""
