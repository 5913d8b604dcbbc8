"""How models work together: questions, prompts, routing. Knows no link, no llama.cpp, no torch."""
