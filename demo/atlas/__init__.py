"""The atlas: countries, their subdivisions, languages and currencies, and what visitors wrote about them."""
