"""Run `variants` on a machine that pretends to have a GPU, before any module asks for one."""

from .fake_gpu import pretend

if __name__ == "__main__":
    pretend()
    from .variants import main

    main()
