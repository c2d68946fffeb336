"""Only the admin: its pages read in more shapes than a view written for a test would."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
