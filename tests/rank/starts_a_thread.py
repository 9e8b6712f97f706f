"""An import with a side effect that would make forked ranks unsafe."""

import threading
import time

threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
