"""The demo's rendered people and the tiny CLIP's training; nothing else imports this package."""
