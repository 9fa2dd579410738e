"""How well a bundle does: on questions of SQuAD, on the tasks of GLUE, and beside another bundle."""
