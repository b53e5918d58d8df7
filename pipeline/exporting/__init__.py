"""What is trained and what it was trained on, as folders that others load: Hugging Face's layout, with cards."""
