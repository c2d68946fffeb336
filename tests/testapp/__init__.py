"""A small library of books: the app whose queries the tests cache."""
