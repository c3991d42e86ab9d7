"""The push of new weights into the engines: what carries them, and the proof that they arrived."""
