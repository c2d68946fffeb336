"""The forms of the atlas."""

from __future__ import annotations

from django import forms

from atlas.models import Note


class NoteForm(forms.ModelForm):
    """What a visitor may write about a country."""

    class Meta:
        model = Note
        fields = ("text",)
        widgets = {"text": forms.Textarea(attrs={"rows": 3})}  # noqa: RUF012 - read by the metaclass, never changed
        labels = {"text": "Your note"}  # noqa: RUF012 - as above
