"""Text in, answers out: what stands between a user's texts and a bundle's arrays.

    texts -> Tokenizer -> Encoding -> Engine.run_sequences -> embeddings, labels, entities, words, answers

Characters and words are BERT's (characters.py, wordpiece.py), or those of a tokenizer.json (tokenizer_json.py); what a
model's own files say about both is in files.py and settings.py. Each task is a file of pure functions.
"""
