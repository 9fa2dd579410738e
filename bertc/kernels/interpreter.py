"""Triton's interpreter: kernels on the CPU, op after op in NumPy, on tensors of torch."""

import os


def interpret() -> None:
    """From now on kernels are declared for the interpreter, as are Triton's own functions: call it before Triton, or
    a module with kernels, is imported.

    Triton 3.6 makes an int of an array of one element, which NumPy 2.4 refuses; `item` does it.
    """
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor
    if patch.__name__ == "patch_with_index":
        return

    def patch_with_index(tensor, scope):
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch_with_index
