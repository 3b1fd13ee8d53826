FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
COPY rules rules
RUN python -m venv /opt/pgloupe && /opt/pgloupe/bin/pip install --no-cache-dir .

FROM python:3.12-slim
COPY --from=build /opt/pgloupe /opt/pgloupe
RUN useradd --system --no-create-home --shell /usr/sbin/nologin pgloupe
USER pgloupe
WORKDIR /etc/pgloupe
ENV PATH=/opt/pgloupe/bin:$PATH PGLOUPE_LISTEN=0.0.0.0:6432 PYTHONUNBUFFERED=1
EXPOSE 6432
STOPSIGNAL SIGTERM
# asks for encryption, which is refused by one byte: the proxy is there and answers
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s \
    CMD ["python", "-c", "import socket,struct; s=socket.create_connection(('127.0.0.1',6432),2); s.sendall(struct.pack('!II',8,80877103)); raise SystemExit(s.recv(1) not in (b'N',b'S'))"]
ENTRYPOINT ["pgloupe"]
CMD ["serve"]
