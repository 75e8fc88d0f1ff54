"""HTTP requests to a server on a Unix socket or at HOST:PORT, many at once. Lines of JSON come out.

    http.py SOCKET send COUNT PATH [COUNT PATH ...]   all at once, each on a connection of its own: "sent", then
                                                      one line for each answer {path, status, seconds, body}
    http.py SOCKET ping CONNECTIONS PATH              again and again on so many connections until a line comes in:
                                                      "answered" after the first one, {count, failed, median, most,
                                                      bodies} at the end (bodies: how many answers said what)
    http.py SOCKET abort PATH                         sends; closes the connection when a line comes in
    http.py SOCKET ask METHOD PATH ACCEPT HEX         one request with a body, given in hexadecimal digits, and an
                                                      Accept header: {path, status, seconds, body}
"""
import asyncio, collections, json, statistics, sys, time


def connect(socket):
    if socket.startswith("/"):
        return asyncio.open_unix_connection(socket)
    host, port = socket.split(":")
    return asyncio.open_connection(host, int(port))


async def request(reader, writer, path, method="GET", accept="*/*", content=b""):
    start = time.monotonic()
    length = f"Content-Length: {len(content)}\r\n" if content or method == "POST" else ""
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: test\r\nAccept: {accept}\r\n{length}\r\n".encode() + content)
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    status = int(head.split()[1])
    if method == "HEAD":
        body = b""
    elif "transfer-encoding: chunked" in head:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    else:
        body = await reader.readexactly(int(head.split("content-length:")[1].split()[0]))
    return status, body.decode(), time.monotonic() - start


async def send(socket, args):
    connections = [(path, await connect(socket))
                   for count, path in zip(args[::2], args[1::2]) for _ in range(int(count))]
    print("sent", flush=True)

    async def one(path, connection):
        try:
            status, body, seconds = await request(*connection, path)
        except Exception as error:  # a worker that was killed
            status, body, seconds = 0, repr(error), 0
        print(json.dumps({"path": path, "status": status, "seconds": seconds, "body": body}), flush=True)

    await asyncio.gather(*[one(*each) for each in connections])


async def ping(socket, count, path):
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    took, failed, bodies = [], [], collections.Counter()

    async def one():
        reader, writer = await connect(socket)
        while not stop.done():
            try:
                status, body, seconds = await request(reader, writer, path)
                if status != 200:
                    failed.append(f"{status}: {body}")
            except Exception as error:
                failed.append(repr(error))
                reader, writer = await connect(socket)
                continue
            if not took:
                print("answered", flush=True)
            took.append(seconds)
            bodies[body] += 1
            await asyncio.sleep(0.002)

    await asyncio.gather(*[one() for _ in range(int(count))])
    print(json.dumps({"count": len(took), "failed": failed, "median": statistics.median(took), "most": max(took),
                      "bodies": bodies}), flush=True)


async def ask(socket, method, path, accept, content):
    status, body, seconds = await request(*await connect(socket), path, method, accept, bytes.fromhex(content))
    print(json.dumps({"path": path, "status": status, "seconds": seconds, "body": body}), flush=True)


async def abort(socket, path):
    _, writer = await connect(socket)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    await writer.drain()
    print("sent", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    writer.close()
    print("closed", flush=True)


socket, verb, *args = sys.argv[1:]
asyncio.run({"send": lambda: send(socket, args), "ping": lambda: ping(socket, *args),
             "ask": lambda: ask(socket, *args), "abort": lambda: abort(socket, *args)}[verb]())
