"""The seams into Django: the only package that changes anything of it, all of it reversible."""
