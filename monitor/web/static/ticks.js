// A worker that wakes the page: the browser slows down the timers of a hidden page to one a minute,
// and those of a worker not at all.

onmessage = ({ data: [number, milliseconds] }) => setTimeout(postMessage, milliseconds, number);
