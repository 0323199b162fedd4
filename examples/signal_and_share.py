"""Event, Lock and Queue: the same three lines of thought on threads and on processes."""

from freethreading import Event, Lock, Queue


def main() -> None:
    lock = Lock()
    event = Event()
    queue: Queue[str] = Queue()

    print(lock.acquire())
    event.set()
    queue.put("data")
    print(event.is_set())
    print(queue.get())
    lock.release()


if __name__ == "__main__":
    main()
