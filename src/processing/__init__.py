"""Plug-ins: what people want to know of frames, worked out in processes of their own, and sent back."""
