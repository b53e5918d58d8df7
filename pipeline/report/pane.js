// Draws solids and points with WebGL, no library: `Solids.Pane` in one canvas, turned by a `Solids.Turntable`.
"use strict";
const Solids = (() => {
  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const lengths = (text) => Float32Array.from(new Int16Array(bytes(text)), (step) => step / 8192);

  // Flat triangles with normals, and the edges where two faces meet at more than 15 degrees.
  function unpack(mesh) {
    const positions = lengths(mesh.positions), indices = new Uint16Array(bytes(mesh.indices));
    const at = (i) => [...positions.subarray(3 * i, 3 * i + 3)];
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

  // Points, each with its colour: that of its distance, by `map` ({ colours, furthest }), or one for all.
  function dots(cloud, errors, map) {
    const positions = lengths(cloud), distances = errors && lengths(errors), data = [];
    for (let i = 0; 3 * i < positions.length; i++) {
      const step = distances && Math.min(255, Math.round((distances[i] / map.furthest) * 255));
      const colour = distances
        ? [...map.colours.subarray(3 * step, 3 * step + 3)].map((c) => c / 255)
        : [0.18, 0.24, 0.36];
      data.push(...positions.subarray(3 * i, 3 * i + 3), ...colour);
    }
    return new Float32Array(data);
  }

  // `n` is the normal of a solid's corner, and a dot's colour. Dots that nothing hides pale with their depth.
  const VERTEX = `attribute vec3 p, n; uniform mat3 view; uniform float size, push, flat_, pale; uniform vec3 colour;
    uniform mediump float dot_; varying vec3 tint;
    void main() { vec3 q = view * p; vec3 m = view * n;
      float shade = .35 + .65 * max(dot(m, normalize(vec3(-.35, .7, .62))), 0.);
      tint = dot_ > 0. ? mix(n, vec3(1.), pale * clamp(.5 - q.z / 3.5, 0., 1.)) : colour * mix(shade, 1., flat_);
      gl_PointSize = dot_;
      gl_Position = vec4(q.x / size, q.y / size, -q.z / 8. - push, 1.); }`;
  const FRAGMENT = `precision mediump float; uniform mediump float dot_; varying vec3 tint;
    void main() { if (dot_ > 0. && length(gl_PointCoord - .5) > .5) discard; gl_FragColor = vec4(tint, 1.); }`;
  const SCAN_DOT = 0.03, DOT = 0.09; // widths, as lengths in the part

  class Pane {
    constructor(canvas) {
      this.canvas = canvas;
      this.look = { dot: 1, background: [1, 1, 1], body: [0.72, 0.78, 0.86], edge: [0.12, 0.12, 0.12] };
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
      this.uniform = (name) => gl.getUniformLocation(program, name);
      this.buffers = { triangles: gl.createBuffer(), lines: gl.createBuffer(), dots: gl.createBuffer() };
    }
    // A solid, or dots, or dots on a solid.
    show(mesh, dots, isScan = false) {
      if (!this.gl) return;
      const gl = this.gl, data = { ...(mesh && unpack(mesh)), ...(dots && { dots }) };
      this.isScan = isScan;
      this.counts = { triangles: 0, lines: 0, dots: 0 };
      for (const name in data) {
        this.counts[name] = data[name].length / (name === "lines" ? 3 : 6);
        gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[name]);
        gl.bufferData(gl.ARRAY_BUFFER, data[name], gl.STATIC_DRAW);
      }
    }
    draw(view, size) {
      if (!this.gl || !this.counts) return;
      const gl = this.gl, side = Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1));
      if (!side) return; // not shown
      if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
      gl.viewport(0, 0, side, side);
      gl.clearColor(...this.look.background, 1);
      gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
      gl.uniformMatrix3fv(this.uniform("view"), false, view);
      gl.uniform1f(this.uniform("size"), size);
      const part = (name, mode, stride, colour, flat, push, dot) => {
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
        gl.uniform1f(this.uniform("dot_"), (dot * side) / 2 / size);
        gl.drawArrays(mode, 0, this.counts[name]);
      };
      gl.uniform1f(this.uniform("pale"), this.isScan ? 0.8 : 0);
      const [colour, flat] = this.counts.dots ? [[0.91, 0.91, 0.91], 0.6] : [this.look.body, 0];
      if (this.counts.triangles) part("triangles", gl.TRIANGLES, 24, colour, flat, 0, 0);
      if (this.counts.lines) part("lines", gl.LINES, 12, this.look.edge, 1, 0.002, 0);
      if (this.counts.dots) part("dots", gl.POINTS, 24, [0, 0, 0], 1, 0.004, (this.isScan ? SCAN_DOT : DOT) * (this.isScan ? 1 : this.look.dot));
    }
  }

  // Where the eye is; pointer, wheel and keys move it, and `draw(view, size)` is called each time.
  class Turntable {
    constructor(canvases, keys, draw) {
      this.redraw = draw;
      this.reset();
      for (const canvas of canvases) {
        canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
        canvas.addEventListener("pointermove", (event) => {
          if (event.buttons) this.turn(-event.movementX * 0.01, event.movementY * 0.01);
        });
        canvas.addEventListener("wheel", (event) => {
          event.preventDefault();
          this.zoom(Math.exp(event.deltaY * 0.001));
        }, { passive: false });
      }
      keys.addEventListener("keydown", (event) => {
        if ("+=-".includes(event.key)) this.zoom(event.key === "-" ? 1.1 : 1 / 1.1);
        const turn = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] }[event.key];
        if (!turn) return;
        this.turn(...turn);
        event.preventDefault();
      });
    }
    // As far off as it takes to see what reaches so far from the middle.
    fit(reach) {
      this.size = Math.max(1.78, 1.78 * reach);
      this.draw();
    }
    reset() {
      [this.yaw, this.pitch, this.size] = [Math.PI / 4, Math.asin(1 / Math.sqrt(3)), 1.78];
    }
    turn(yaw, pitch) {
      this.yaw += yaw;
      this.pitch = Math.max(-1.57, Math.min(1.57, this.pitch + pitch));
      this.draw();
    }
    zoom(factor) {
      this.size = Math.max(0.3, Math.min(4, this.size * factor));
      this.draw();
    }
    // Columns of the matrix that takes the part's axes (z up) to right, up and towards the eye.
    draw() {
      const [cy, sy] = [Math.cos(this.yaw), Math.sin(this.yaw)];
      const [cp, sp] = [Math.cos(this.pitch), Math.sin(this.pitch)];
      const right = [-sy, cy, 0], eye = [cp * cy, cp * sy, sp], up = [-sp * cy, -sp * sy, cp];
      this.redraw(new Float32Array([0, 1, 2].flatMap((k) => [right[k], up[k], eye[k]])), this.size);
    }
  }

  return { Pane, Turntable, bytes, dots, lengths };
})();
