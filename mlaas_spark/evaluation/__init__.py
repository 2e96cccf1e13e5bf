"""How well a model does: scores, labels and weights in, plain numbers out. Knows no model, file or TensorFlow."""
