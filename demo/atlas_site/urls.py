"""Addresses of the project: the atlas, its visitors' login, the admin, and the toolbar while debugging."""

from __future__ import annotations

from django.conf import settings
from django.contrib import admin
from django.contrib.auth import views as auth
from django.urls import include, path

urlpatterns = [
    path("", include("atlas.urls")),
    path("login/", auth.LoginView.as_view(), name="login"),
    path("logout/", auth.LogoutView.as_view(), name="logout"),
    path("admin/", admin.site.urls),
]

if settings.WITH_TOOLBAR:
    urlpatterns += [path("__debug__/", include("debug_toolbar.urls"))]
