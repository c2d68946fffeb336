"""A forum, as small as one can be and still have what a forum does to a cache of queries."""
