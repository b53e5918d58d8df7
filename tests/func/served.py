"""A service at work, as a process."""

import re
import signal
import time

import httpx


class Server:
    """A running ``cadmllm serve``."""

    def __init__(self, project, *args):
        self.process = project.start("cadmllm", "serve", "--port", "0", *args, CADMLLM_WORKERS="2")
        while not (found := re.search(r"(http://\S+:)(\d+)", self.process.said())):
            assert self.process.poll() is None, self.process.said()
            time.sleep(0.02)
        self.url, self.port = "".join(found.groups()), int(found[2])
        self.client = httpx.Client(base_url=self.url, timeout=120)

    def post(self, path, status=200, **body):
        answer = self.client.post(path, json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    def upload(self, name, data, status=200):
        answer = self.client.post("/v1/uploads", params={"name": name}, content=data)
        assert answer.status_code == status, answer.text
        return answer.json()

    def figure(self, name):
        """The sum of a Prometheus figure over its labels."""
        lines = self.client.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if re.match(rf"cadmllm_{name}(\{{| )", line))

    def close(self):
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        output = self.process.communicate(timeout=60)[0]
        assert self.process.returncode == 0, output
        return output
