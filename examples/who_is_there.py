"""Nothing runs beside the main program: no children, one worker, and its identifier."""

from freethreading import active_children, enumerate, get_ident


def main() -> None:
    print(len(active_children()))
    print(len(enumerate()))
    print(get_ident())


if __name__ == "__main__":
    main()
