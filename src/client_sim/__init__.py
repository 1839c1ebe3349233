"""Imitates phones and cameras over every way in; the server never imports it."""
