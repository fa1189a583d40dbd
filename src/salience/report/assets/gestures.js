// Drag, Ctrl and the wheel, and two fingers on the maps: all of them move the ranges that maps share.
// On a whole map one finger scrolls the page (see touch-action in page.css).
function gestures(pictures, zoom, move) {
  const down = new Map(); // pointer -> where it is, and on which picture
  const share = (box, x, y) => [(x - box.left) / box.width, (y - box.top) / box.height];

  function press(event) {
    if (event.button === 0) down.set(event.pointerId, { x: event.clientX, y: event.clientY, on: event.currentTarget });
  }

  function moved(event) {
    const before = down.get(event.pointerId);
    if (!before) return;
    const other = [...down.entries()].find(([id]) => id !== event.pointerId)?.[1];
    const now = { ...before, x: event.clientX, y: event.clientY }, box = now.on.getBoundingClientRect();
    down.set(event.pointerId, now);
    if (!other) return move((before.x - now.x) / box.width, (before.y - now.y) / box.height);
    const apart = (a) => Math.max(1, Math.hypot(a.x - other.x, a.y - other.y));
    zoom(apart(before) / apart(now), share(box, (now.x + other.x) / 2, (now.y + other.y) / 2));
  }

  function wheel(event) {
    if (!event.ctrlKey) return;
    event.preventDefault();
    const box = event.currentTarget.getBoundingClientRect();
    zoom(2 ** (Math.max(-100, Math.min(100, event.deltaY)) / 200), share(box, event.clientX, event.clientY));
  }

  for (const picture of pictures) {
    picture.addEventListener("pointerdown", press);
    picture.addEventListener("wheel", wheel, { passive: false });
  }
  addEventListener("pointermove", moved);
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, (event) => down.delete(event.pointerId));
}
