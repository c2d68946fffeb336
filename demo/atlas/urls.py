"""Addresses of the atlas."""

from __future__ import annotations

from django.urls import path

from atlas import views

urlpatterns = [
    path("", views.home, name="home"),
    path("countries/", views.countries, name="countries"),
    path("countries/<str:code>/", views.country, name="country"),
    path("countries/<str:code>/notes/", views.add_note, name="add-note"),
    path("notes/<int:number>/delete/", views.delete_note, name="delete-note"),
    path("languages/", views.languages, name="languages"),
    path("currencies/", views.currencies, name="currencies"),
    path("currencies/<str:code>/", views.currency, name="currency"),
    path("scripts/", views.scripts, name="scripts"),
    path("statistics/", views.statistics, name="statistics"),
]
