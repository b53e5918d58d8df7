// Turns the points that were shown, a generated solid, the true one and its error in colour together. All comes from the
// page's own JSON.
"use strict";
(() => {
  const models = JSON.parse(document.getElementById("meshes").textContent);
  const dialog = document.getElementById("viewer");
  const map = {
    colours: new Uint8Array(Solids.bytes(dialog.dataset.colours)),
    furthest: Number(dialog.dataset.furthest),
  };
  const canvases = dialog.querySelectorAll("canvas");
  let panes = null;
  const table = new Solids.Turntable(canvases, dialog, (view, size) =>
    Object.values(panes).forEach((pane) => pane.draw(view, size))
  );
  document.querySelectorAll("button[data-model]").forEach((button) =>
    button.addEventListener("click", () => {
      const { model, combination, title } = button.dataset, found = models[model];
      const [mesh, errors] = [found.meshes[combination], found.errors[combination]];
      const shown = {
        scan: combination.includes("point_cloud") && [null, Solids.dots(found.cloud), true],
        made: mesh && [mesh],
        true: found.true && [found.true],
        error: errors && [found.true, Solids.dots(found.cloud, errors, map)],
      };
      dialog.querySelector("h3").textContent = title;
      table.reset();
      dialog.showModal();
      panes = panes || Object.fromEntries([...canvases].map((c) => [c.parentElement.dataset.pane, new Solids.Pane(c)]));
      dialog.querySelector(".nogl").hidden = Boolean(panes.made.gl);
      for (const name in panes) {
        panes[name].canvas.parentElement.hidden = !shown[name];
        if (shown[name]) panes[name].show(...shown[name]);
      }
      table.draw();
    })
  );
  window.addEventListener("resize", () => panes && dialog.open && table.draw());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
})();
