"""``manage.py prepare``: make the database of the demonstration, as often as you like."""

from __future__ import annotations

from django.conf import settings
from django.core.management import BaseCommand, call_command

from atlas.fill import ADMIN, fill, fill_admin, sizes


class Command(BaseCommand):
    """Create the tables, load the ISO data and make a superuser; whatever is there already is left alone."""

    help = "Create the tables of the atlas, load the ISO data and make a superuser."

    def handle(self, *_args: object, **options: object) -> None:
        """Do what the class says."""
        settings.VAR.mkdir(parents=True, exist_ok=True)
        call_command("migrate", verbosity=0)
        fill()
        fill_admin()
        if options["verbosity"]:
            rows = ", ".join(f"{number} {name}" for name, number in sizes().items())
            self.stdout.write(f"The atlas has {rows}.")
            if settings.WITH_TOOLBAR:
                self.stdout.write("The tab at the right edge of each page opens the debug toolbar.")
            self.stdout.write(f"Log in to the site or to /admin/ as {ADMIN!r} with the password {ADMIN!r}.")
