"""What several tasks measure with: encoded galleries, filled words, the scenes' oracle."""
