"""A Worker by name, a pool, an executor: what runs where is told by current_worker()."""

from freethreading import Worker, WorkerPool, WorkerPoolExecutor, current_worker


def greet() -> None:
    print(f"Hello from {current_worker().name}!", flush=True)


def square(x: int) -> int:
    return x * x


def main() -> None:
    print(current_worker().name)

    worker = Worker(target=greet, name="MyWorker")
    worker.start()
    worker.join()

    with WorkerPool(workers=2) as pool:
        print(pool.map(square, range(5)))

    with WorkerPoolExecutor(max_workers=2) as executor:
        executor.submit(greet).result()


if __name__ == "__main__":
    main()
