"""Programs that attack the sandbox, and programs that it must not hinder. ``python -m tests.hostile`` runs them all."""
