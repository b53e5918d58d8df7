// The page: what is asked for, the part that comes of it, and its steps, each number of which can be changed.
"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const given = []; // uploads: { id, name, kind, points, frame }
  let health = null, choices = [], history = [], at = -1, stop = null;
  // An edit that is still typed, those to come, whether one is built, and what takes all of them back.
  let typing = null, edits = [], editing = false, era = 0;

  // -- the service ------------------------------------------------------------------------------------------------

  async function ask(path, options) {
    let answer;
    try {
      answer = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Error("The service does not answer. Is it still running?");
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    const detail = Array.isArray(said.detail)
      ? said.detail.map((one) => `${one.loc.slice(1).join(".")}: ${one.msg}`).join("; ")
      : said.detail;
    throw new Error(detail || `The service says ${answer.status}.`);
  }
  const post = (path, body, signal) =>
    ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

  function problem(error) {
    $("problem").hidden = !error;
    $("problem").textContent = error ? error.message || String(error) : "";
  }
  async function guarded(work) {
    problem(null);
    try {
      return await work();
    } catch (error) {
      if (error.name !== "AbortError") problem(error);
      return null;
    }
  }

  async function watch() {
    try {
      health = await (await ask("health")).json();
      const known = health.combinations.join(", ").replaceAll("_", " ");
      const kinds = [["text", "words"], ["point_cloud", "scans"], ["image", "pictures"]]
        .filter(([kind]) => health.combinations.some((one) => one.split("+").includes(kind))).map(([, word]) => word);
      $("state").title = `${health.checkpoint}, trained on ${known}`;
      $("state").textContent = {
        ok: `ready for ${kinds.join(", ")}`,
        loading: "the model is loading; programs can be edited already",
        failed: `the model cannot be loaded: ${health.detail}`,
      }[health.status];
      $("seconds").max = health.limits.search_s;
      $("candidates").max = health.limits.candidates;
    } catch (error) {
      $("state").textContent = error.message;
    }
    setTimeout(watch, health && health.status === "ok" ? 15000 : 700);
  }

  // -- what is given ----------------------------------------------------------------------------------------------

  const scan = () => given.find((file) => file.kind === "scan");

  async function take(files) {
    for (const file of files) {
      await guarded(async () => {
        if (health && file.size > health.limits.upload_mib * 2 ** 20)
          throw new Error(`${file.name} is larger than ${health.limits.upload_mib} MiB.`);
        $("doing").textContent = `reading ${file.name}`;
        const sent = await ask(`v1/uploads?name=${encodeURIComponent(file.name)}&unit=${$("unit").value}`, {
          method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" },
        });
        use({ ...(await sent.json()), file });
      });
    }
    $("doing").textContent = "";
    $("files").value = "";
    show();
  }

  function use(upload) {
    if (upload.kind === "program") {
      choose([upload.part], 0);
      return;
    }
    if (upload.kind === "scan") {
      const before = scan();
      if (before) given.splice(given.indexOf(before), 1);
    } else if (health && given.filter((file) => file.kind === "picture").length >= health.views) {
      throw new Error(`The checkpoint takes ${health.views} pictures.`);
    }
    given.push(upload);
    listGiven();
    if (upload.kind === "scan") {
      if (Number($("seconds").value) === 0) $("seconds").value = 10;
      look("scan");
    }
  }

  function listGiven() {
    $("given").replaceChildren(
      ...given.map((file) => {
        const remove = button("remove", () => {
          given.splice(given.indexOf(file), 1);
          listGiven();
          show();
        });
        remove.setAttribute("aria-label", `remove ${file.name}`);
        return item(`${file.kind}: ${file.name} `, remove);
      })
    );
  }

  // -- generating -------------------------------------------------------------------------------------------------

  const number = (id) => Number($(id).value);
  const prompt = () => ({
    caption: $("caption").value,
    scan: scan() ? scan().id : null,
    images: given.filter((file) => file.kind === "picture").map((file) => file.id),
    candidates: number("candidates"),
    seed: number("seed"),
    size_mm: number("size"),
  });

  async function run(work) {
    if (stop) return;
    stop = new AbortController();
    busy(true);
    await guarded(() => work(stop.signal));
    stop = null;
    busy(false);
  }
  function busy(now) {
    $("go").disabled = now;
    $("stop").hidden = !now;
    $("doing").textContent = "";
    $("progress").hidden = true;
    if (now && innerWidth < 700) $("part").scrollIntoView();
    $("part").classList.toggle("busy", now);
    $("part").setAttribute("aria-busy", now);
    buttons();
  }

  async function generate(signal, start) {
    const asked = { ...prompt(), ...(start && { start }) };
    if (number("seconds") > 0 && (asked.scan || asked.images.length)) return search({ ...asked, seconds: number("seconds") }, signal);
    $("doing").textContent = health && health.status === "ok" ? "writing" : "waiting for the model";
    const answer = await (await post(start ? "v1/complete" : "v1/generate", asked, signal)).json();
    choose(answer.parts, 0, answer.notes);
  }

  // Lines of JSON, each as soon as it is there.
  async function search(asked, signal) {
    $("doing").textContent = "writing a first program";
    let clock = null;
    const begin = () => {
      const begun = Date.now(), most = asked.seconds;
      $("progress").hidden = false;
      const tick = () => {
        const seconds = (Date.now() - begun) / 1000;
        $("progress").value = Math.min(1, seconds / most);
        $("doing").textContent = seconds < most ? `searching, ${Math.floor(seconds)} of ${most} s` : "finishing";
      };
      tick();
      clock = setInterval(tick, 500);
    };
    try {
      const reader = (await post("v1/search", asked, signal)).body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "", found = null;
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        const lines = (rest + value).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          const event = JSON.parse(line);
          if (event.event === "waiting") $("doing").textContent = "waiting: another search is at work";
          if (event.event === "started") begin();
          if (event.event === "failed") throw new Error(event.detail);
          if (!event.part) continue;
          const judged = `${event.judged.toLocaleString("en")} programs judged`;
          const notes = event.event === "done" ? [...event.notes, `search is over: ${judged}`] : [judged];
          choose([event.part], 0, notes, found);
          found = history[at];
        }
      }
    } finally {
      clearInterval(clock);
    }
  }

  // -- the part ---------------------------------------------------------------------------------------------------

  const current = () => (at < 0 ? null : history[at].part);

  // `instead` is a state of the same search, which this one replaces.
  function choose(parts, which, notes = [], instead = null) {
    choices = parts;
    if (parts[which].solid && !(instead && instead.part.solid)) look("solid");
    if (instead && history[at] === instead) history[at] = { part: parts[which], notes };
    else remember({ part: parts[which], notes });
    listChoices(which);
    show();
  }
  function remember(state) {
    history = [...history.slice(0, at + 1), state].slice(-200);
    at = history.length - 1;
  }
  function listChoices(which) {
    $("choices").replaceChildren(
      ...(choices.length < 2 ? [] : choices).map((part, i) => {
        const misfit = part.solid && (part.solid.misfit ?? part.solid.difference);
        const said = part.solid ? (misfit != null ? `misfit ${misfit.toFixed(3)}` : `${part.tokens} tokens`) : "no solid";
        const chosen = button(`${i + 1}: ${said}`, () => choose(choices, i));
        chosen.setAttribute("aria-pressed", i === which);
        return item(chosen);
      })
    );
  }

  // One edit after the other, each of what the one before has made. Those of one number that wait become one.
  function edit(change, key) {
    flush();
    const last = edits.at(-1);
    if (key && last && last.key === key) last.change = change;
    else edits.push({ change, key });
    if (!editing) build();
  }
  async function build() {
    editing = true;
    while (edits.length) {
      const { change, key } = edits.shift(), begun = era, before = history[at];
      const part = await guarded(async () =>
        (await post("v1/build", { program: before.part.program, change, scan: scan() ? scan().id : null })).json()
      );
      if (begun !== era || !part) continue; // taken back, or refused
      if (key && before.key === key) history[at] = { part, notes: [], key };
      else remember({ part, notes: [], key });
      choices = [];
      listChoices(0);
      show();
    }
    editing = false;
  }
  function type(change, key) {
    if (typing && typing.key !== key) flush();
    if (typing) clearTimeout(typing.timer);
    typing = { change, key, timer: setTimeout(flush, 80) };
  }
  function flush() {
    if (!typing) return;
    const { change, key, timer } = typing;
    clearTimeout(timer);
    typing = null;
    edit(change, key);
  }

  function travel(by) {
    const unseen = typing || edits.length || editing; // an edit that is not shown yet is what is taken back
    if (typing) clearTimeout(typing.timer);
    [typing, edits] = [null, []];
    era++;
    if (!unseen || by > 0) at += by;
    choices = [];
    listChoices(0);
    show();
  }

  const short = (value) => String(Number(value.toPrecision(4)));
  function buttons() {
    $("undo").disabled = at < 1 || Boolean(stop);
    $("redo").disabled = at >= history.length - 1 || Boolean(stop);
    $("continue").disabled = !current() || Boolean(stop);
    $("download").disabled = $("link").disabled = !current();
  }

  function show() {
    const part = current(), cloud = scan();
    $("empty").hidden = Boolean(part || cloud);
    buttons();
    draw(true);
    $("facts").textContent = cloud ? `${cloud.name}: ${cloud.size.map(short).join(" x ")} mm` : "";
    if (!part) return;
    const solid = part.solid;
    const facts = solid
      ? [`${solid.size.map(short).join(" x ")} mm`, `${volume(solid.volume)}`,
          ...(solid.bodies > 1 ? [`${solid.bodies} bodies that touch nowhere`] : []),
          ...(solid.misfit != null ? [`${short(solid.misfit * solid.frame.scale * 1000)} mm off the scan in the mean`] : []),
          ...(solid.difference != null ? [`${(solid.difference * 100).toFixed(1)}% unlike the pictures`] : []),
          ...(solid.mesh ? [] : ["too many faces to be shown"])]
      : [`no solid: ${part.failure}`];
    $("facts").textContent = [...facts, ...history[at].notes].join("; ");
    listSteps(part);
  }
  const volume = (mm3) => (mm3 < 1e5 ? `${short(mm3)} mm³` : `${short(mm3 / 1000)} cm³`);

  function listSteps(part) {
    const open = new Set([...document.querySelectorAll("#steps details[open]")].map((one) => one.dataset.step));
    const focused = document.activeElement && document.activeElement.dataset.key, typed = focused && document.activeElement.value;
    $("steps").replaceChildren(...part.steps.map((step, i) => stepItem(step, i, open.has(String(i)))));
    const again = focused && document.querySelector(`input[data-key="${focused}"]`);
    if (again) {
      again.focus();
      if (Number(typed) === Number(again.value)) again.value = typed;
    }
  }

  function stepItem(step, i, isOpen) {
    const text = document.createElement("p");
    text.textContent = step.text;
    const remove = button("Delete", () => edit({ delete: i + 1 }));
    remove.setAttribute("aria-label", `delete step ${i + 1}`);
    const head = document.createElement("div");
    head.className = "head";
    head.append(text, remove);
    const details = document.createElement("details"), summary = document.createElement("summary");
    details.dataset.step = i;
    details.open = isOpen || (current().steps.length < 3 && i === 0 && history.length === 1);
    summary.textContent = "numbers";
    details.append(summary, ...step.groups.map((group) => groupOf(group, i)));
    const made = document.createElement("li");
    made.append(head, details);
    return made;
  }
  function groupOf(group, i) {
    const made = document.createElement("div"), title = document.createElement("span"), grid = document.createElement("div");
    made.className = "group";
    title.textContent = group.label;
    for (const parameter of group.parameters) {
      const label = document.createElement("label"), input = document.createElement("input");
      input.id = input.dataset.key = parameter.key;
      label.htmlFor = input.id;
      label.textContent = parameter.label;
      const rounded = Number(parameter.value.toFixed(3));
      Object.assign(input, { type: "number", step: "any", value: rounded, title: `${parameter.value} mm` });
      input.setAttribute("aria-label", `step ${i + 1}, ${group.label}: ${parameter.label}, millimetres`);
      input.addEventListener("input", () => {
        if (input.value !== "") type({ parameter: parameter.key, value: Number(input.value) }, parameter.key);
      });
      grid.append(label, input);
    }
    made.append(title, grid);
    return made;
  }

  // -- what is seen -----------------------------------------------------------------------------------------------

  const pane = new Solids.Pane($("view"));
  const table = new Solids.Turntable([$("view")], $("view"), (view, size) => pane.draw(view, size));
  const map = { furthest: 0.2, colours: viridis() };
  // Nineteen of twenty points are within the colours.
  function furthest(errors) {
    const sorted = Solids.lengths(errors).sort();
    return Math.max(sorted[Math.floor(0.95 * sorted.length)] || 0, 0.001);
  }
  const looked = () => document.querySelector('input[name="look"]:checked').value;
  function look(what) {
    document.querySelector(`input[name="look"][value="${what}"]`).checked = true;
  }

  // Yellow is near, violet is far: even steps look even.
  function viridis() {
    const stops = ["fde725", "90d743", "35b779", "21918c", "31688e", "443983", "440154"].map((hex) =>
      [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16))
    );
    return Uint8Array.from({ length: 256 * 3 }, (_, i) => {
      const x = (Math.floor(i / 3) / 255) * (stops.length - 1), k = Math.min(Math.floor(x), stops.length - 2);
      return stops[k][i % 3] + (x - k) * (stops[k + 1][i % 3] - stops[k][i % 3]);
    });
  }

  function draw(fitted = false) {
    const part = current(), cloud = scan(), solid = part && part.solid, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    pane.look = dark
      ? { dot: 0.4, background: [0.12, 0.14, 0.17], body: [0.5, 0.64, 0.82], edge: [0.02, 0.02, 0.03] }
      : { dot: 0.4, background: [0.965, 0.97, 0.976], body: [0.72, 0.78, 0.86], edge: [0.12, 0.12, 0.12] };
    const errors = solid && solid.errors && cloud;
    for (const [value, there] of [["solid", solid], ["scan", cloud], ["error", errors]])
      document.querySelector(`input[name="look"][value="${value}"]`).disabled = !there;
    const wanted = looked() === "error" && !errors ? "solid" : looked();
    const shown = wanted === "solid" && !solid ? "scan" : wanted === "scan" && !cloud ? "solid" : wanted;
    $("legend").hidden = shown !== "error";
    if (errors) {
      map.furthest = furthest(solid.errors);
      $("furthest").textContent = short(map.furthest * solid.frame.scale * 1000);
    }
    if (shown === "scan" && cloud) pane.show(null, Solids.dots(cloud.points, null, map), true);
    else if (shown === "error" && errors) pane.show(solid.mesh, Solids.dots(cloud.points, solid.errors, map));
    else if (solid && solid.mesh) pane.show(solid.mesh, null);
    else pane.show(null, null);
    $("view").dataset.shown = shown;
    const ends = solid && solid.mesh ? Solids.lengths(solid.mesh.positions) : [];
    const reach = ends.reduce((most, x) => Math.max(most, Math.abs(x)), 1);
    if (fitted && reach > table.size / 1.7) table.fit(reach);
    else table.draw();
  }

  // -- keeping ----------------------------------------------------------------------------------------------------

  async function download() {
    const [format, library] = $("format").value.split(":");
    const asked = { program: current().program, format, unit: "mm", ...(library && { library }) };
    const answer = await post("v1/convert", asked);
    const anchor = document.createElement("a");
    anchor.href = URL.createObjectURL(await answer.blob());
    anchor.download = `part.${format}`;
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 10000);
  }

  const piped = async (data, stream) => new Uint8Array(await new Response(new Blob([data]).stream().pipeThrough(stream)).arrayBuffer());
  async function link() {
    const packed = await piped(JSON.stringify(current().program), new CompressionStream("deflate-raw"));
    const text = btoa(Array.from(packed, (byte) => String.fromCharCode(byte)).join(""));
    location.hash = "p=" + text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
    try {
      await navigator.clipboard.writeText(location.href);
      $("facts").textContent = "the link is copied; it holds the whole program, not the scan";
    } catch {
      $("facts").textContent = "the address of this page holds the whole program now: copy it";
    }
  }
  async function fromLink() {
    if (!location.hash.startsWith("#p=")) return;
    const text = location.hash.slice(3).replaceAll("-", "+").replaceAll("_", "/");
    let program;
    try {
      const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
      program = JSON.parse(new TextDecoder().decode(await piped(packed, new DecompressionStream("deflate-raw"))));
    } catch {
      throw new Error("The link is damaged: it holds no program.");
    }
    choose([await (await post("v1/build", { program })).json()], 0);
  }

  // -- examples ---------------------------------------------------------------------------------------------------

  async function examples() {
    const listed = await (await ask("v1/examples")).json();
    $("examples").replaceChildren(
      ...listed.map((example) =>
        item(button(example.title, () => {
          given.splice(0);
          $("caption").value = example.caption;
          $("seconds").value = 0;
          if (example.upload) use(example.upload);
          listGiven();
          run((signal) => generate(signal));
        }))
      )
    );
  }

  // -- small things -----------------------------------------------------------------------------------------------

  function button(text, work) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", work);
    return made;
  }
  function item(...children) {
    const made = document.createElement("li");
    made.append(...children);
    return made;
  }

  $("prompt").addEventListener("submit", (event) => {
    event.preventDefault();
    run((signal) => generate(signal));
  });
  $("stop").addEventListener("click", () => stop && stop.abort());
  $("continue").addEventListener("click", () => run((signal) => generate(signal, current().program)));
  $("undo").addEventListener("click", () => travel(-1));
  $("redo").addEventListener("click", () => travel(1));
  $("download").addEventListener("click", () => guarded(download));
  $("link").addEventListener("click", () => guarded(link));
  $("files").addEventListener("change", () => take([...$("files").files]));
  document.querySelectorAll('input[name="look"]').forEach((radio) => radio.addEventListener("change", () => draw()));
  $("fit").addEventListener("click", () => {
    table.reset();
    draw(true);
  });
  $("unit").addEventListener("change", () => {
    const scans = given.filter((one) => one.kind === "scan" && one.file).map((one) => one.file);
    if (scans.length) take(scans);
  });
  addEventListener("resize", () => draw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  addEventListener("hashchange", () => guarded(fromLink));
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input, textarea")) return;
    event.preventDefault();
    if (event.shiftKey ? !$("redo").disabled : !$("undo").disabled) travel(event.shiftKey ? 1 : -1);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
    addEventListener(kind, (event) => {
      event.preventDefault();
      $("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take([...event.dataTransfer.files]);
    });
  watch();
  draw();
  guarded(fromLink);
  guarded(examples);
})();
