// Turns a generated solid and the true one together: WebGL, no library. Meshes come from the page's own JSON.
"use strict";
(() => {
  const meshes = JSON.parse(document.getElementById("meshes").textContent);
  const dialog = document.getElementById("viewer");
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

  // Flat triangles with normals, and the edges where two faces meet at more than 15 degrees.
  function unpack(mesh) {
    const steps = new Int16Array(bytes(mesh.positions)), indices = new Uint32Array(bytes(mesh.indices));
    const at = (i) => [steps[3 * i] / 8192, steps[3 * i + 1] / 8192, steps[3 * i + 2] / 8192];
    const triangles = [], edges = new Map(), lines = [];
    for (let t = 0; t < indices.length; t += 3) {
      const [a, b, c] = [at(indices[t]), at(indices[t + 1]), at(indices[t + 2])];
      const u = b.map((x, k) => x - a[k]), v = c.map((x, k) => x - a[k]);
      const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
      const length = Math.hypot(...n) || 1, normal = n.map((x) => x / length);
      for (const p of [a, b, c]) triangles.push(...p, ...normal);
      for (let k = 0; k < 3; k++) {
        const i = indices[t + k], j = indices[t + (k + 1) % 3], key = Math.min(i, j) + "/" + Math.max(i, j);
        const other = edges.get(key);
        if (!other) edges.set(key, { normal, ends: [at(i), at(j)], open: true });
        else {
          other.open = false;
          if (normal.reduce((sum, x, m) => sum + x * other.normal[m], 0) < 0.966) lines.push(...other.ends.flat());
        }
      }
    }
    for (const edge of edges.values()) if (edge.open) lines.push(...edge.ends.flat());
    return { triangles: new Float32Array(triangles), lines: new Float32Array(lines) };
  }

  const VERTEX = `attribute vec3 p, n; uniform mat3 view; uniform float size, push; varying float shade;
    void main() { vec3 q = view * p; vec3 m = view * n;
      shade = .35 + .65 * max(dot(m, normalize(vec3(-.35, .7, .62))), 0.);
      gl_Position = vec4(q.x / size, q.y / size, -q.z / 8. - push, 1.); }`;
  const FRAGMENT = `precision mediump float; uniform vec3 colour; uniform float flat_; varying float shade;
    void main() { gl_FragColor = vec4(colour * mix(shade, 1., flat_), 1.); }`;

  class Pane {
    constructor(canvas) {
      this.canvas = canvas;
      const gl = (this.gl = canvas.getContext("webgl", { antialias: true }));
      if (!gl) return;
      const program = gl.createProgram();
      for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
        const shader = gl.createShader(kind);
        gl.shaderSource(shader, source);
        gl.compileShader(shader);
        gl.attachShader(program, shader);
      }
      gl.bindAttribLocation(program, 0, "p");
      gl.bindAttribLocation(program, 1, "n");
      gl.linkProgram(program);
      gl.useProgram(program);
      gl.enable(gl.DEPTH_TEST);
      gl.clearColor(1, 1, 1, 1);
      this.uniform = (name) => gl.getUniformLocation(program, name);
      this.buffers = { triangles: gl.createBuffer(), lines: gl.createBuffer() };
    }
    show(mesh) {
      if (!this.gl) return;
      const gl = this.gl, data = unpack(mesh);
      this.counts = { triangles: data.triangles.length / 6, lines: data.lines.length / 3 };
      for (const name of ["triangles", "lines"]) {
        gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
        gl.bufferData(gl.ARRAY_BUFFER, data[name], gl.STATIC_DRAW);
      }
    }
    draw(view, size) {
      if (!this.gl || !this.counts) return;
      const gl = this.gl, side = Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1));
      if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
      gl.viewport(0, 0, side, side);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix3fv(this.uniform("view"), false, view);
      gl.uniform1f(this.uniform("size"), size);
      const part = (name, mode, stride, colour, flat, push) => {
        gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
        gl.enableVertexAttribArray(0);
        gl.vertexAttribPointer(0, 3, gl.FLOAT, false, stride, 0);
        if (stride === 24) {
          gl.enableVertexAttribArray(1);
          gl.vertexAttribPointer(1, 3, gl.FLOAT, false, stride, 12);
        } else gl.disableVertexAttribArray(1);
        gl.uniform3fv(this.uniform("colour"), colour);
        gl.uniform1f(this.uniform("flat_"), flat);
        gl.uniform1f(this.uniform("push"), push);
        gl.drawArrays(mode, 0, this.counts[name]);
      };
      part("triangles", gl.TRIANGLES, 24, [0.72, 0.78, 0.86], 0, 0);
      part("lines", gl.LINES, 12, [0.12, 0.12, 0.12], 1, 0.002);
    }
  }

  let panes = null, yaw = Math.PI / 4, pitch = Math.asin(1 / Math.sqrt(3)), size = 1.78;
  // Columns of the matrix that takes the part's axes (z up) to right, up and towards the eye.
  function draw() {
    const [cy, sy, cp, sp] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    const right = [-sy, cy, 0], eye = [cp * cy, cp * sy, sp], up = [-sp * cy, -sp * sy, cp];
    const view = new Float32Array([0, 1, 2].flatMap((k) => [right[k], up[k], eye[k]]));
    panes.forEach((pane) => pane.draw(view, size));
  }
  const [first, second] = dialog.querySelectorAll("canvas");
  document.querySelectorAll("button[data-mesh]").forEach((button) =>
    button.addEventListener("click", () => {
      const model = meshes[button.dataset.model];
      dialog.querySelector("h3").textContent = button.dataset.title;
      [yaw, pitch, size] = [Math.PI / 4, Math.asin(1 / Math.sqrt(3)), 1.78];
      dialog.showModal();
      panes = panes || [new Pane(first), new Pane(second)];
      dialog.querySelector(".nogl").hidden = Boolean(panes[0].gl);
      panes[0].show(model.true);
      panes[1].show(model[button.dataset.mesh]);
      draw();
    })
  );
  for (const canvas of [first, second]) {
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      yaw -= event.movementX * 0.01;
      pitch = Math.max(-1.57, Math.min(1.57, pitch + event.movementY * 0.01));
      draw();
    });
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      size = Math.max(0.3, Math.min(4, size * Math.exp(event.deltaY * 0.001)));
      draw();
    }, { passive: false });
  }
  dialog.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
    if (!turn) return;
    yaw += turn[0];
    pitch = Math.max(-1.57, Math.min(1.57, pitch + turn[1]));
    draw();
    event.preventDefault();
  });
  window.addEventListener("resize", () => panes && dialog.open && draw());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
})();
