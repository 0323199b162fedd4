"""Lines at the top level of a module that make a process unfit to be forked behind its import."""

from __future__ import annotations

UNFIT = {
    "thread": "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
    "handler": "import signal; signal.signal(signal.SIGUSR1, lambda *_: None)",
    "socket": "import socket; kept = socket.socketpair()",
    # In the zygote alone, which ignores interrupts.
    "crash": "import signal; signal.getsignal(signal.SIGINT) is signal.SIG_IGN and os._exit(3)",
    "killed": "import signal; signal.getsignal(signal.SIGINT) is signal.SIG_IGN and os.kill(os.getpid(), 9)",
    "error": "import signal\nif signal.getsignal(signal.SIGINT) is signal.SIG_IGN: raise ImportError('not here')",
    "exit": "import signal, sys; signal.getsignal(signal.SIGINT) is signal.SIG_IGN and sys.exit('not here')",
    "sleep": "import signal, time; signal.getsignal(signal.SIGINT) is signal.SIG_IGN and time.sleep(60)",
}
