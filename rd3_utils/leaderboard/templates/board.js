// Sorting by DataTables; filters over all tables of the page; details of a row below it. Without it the page still reads.
const tables = [];
for (const element of document.querySelectorAll("table.board")) {
  tables.push({
    section: element.closest("section"),
    api: new globalThis.DataTable(element, {
      paging: false, info: false, autoWidth: false, order: [],
      layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
      columnDefs: [{ targets: "plain", orderable: false, searchable: false }],
    }),
  });
}

const form = document.querySelector("form.filters");
const nothing = document.querySelector("p.nothing");

function fits(element) {
  return [...form.querySelectorAll("select")].every(
    (select) => !select.value || !(select.name in element.dataset) || element.dataset[select.name] === select.value);
}

function filter() {
  let shownTables = 0, shownRows = 0;
  for (const { section, api } of tables) {
    api.search(form.elements.q.value).draw();
    const rows = api.rows({ search: "applied" }).count();
    section.hidden = !fits(section) || rows === 0;
    shownTables += !section.hidden;
    shownRows += section.hidden ? 0 : rows;
  }
  for (const figure of document.querySelectorAll(".plots figure")) figure.hidden = !fits(figure);
  nothing.hidden = shownTables > 0;
  form.querySelector(".shown").textContent =
    `${shownRows} row${shownRows === 1 ? "" : "s"} in ${shownTables} table${shownTables === 1 ? "" : "s"}`;
}

function toggle(button, open) {
  const row = button.closest("tr");
  const { api } = tables.find(({ section }) => section.contains(row));
  const child = api.row(row).child;
  if (open) {
    const content = document.getElementById(button.dataset.more).content.cloneNode(true);
    child(content.firstElementChild, "details-row").show();
  } else {
    child.hide();
  }
  button.setAttribute("aria-expanded", String(open));
}

function follow() {
  const row = location.hash && document.getElementById(location.hash.slice(1));
  if (!row || !row.closest("table.board")) return;
  if (row.closest("section").hidden) {
    form.reset();
    filter();
  }
  row.scrollIntoView({ block: "center" });
  row.querySelector("button.more").focus({ preventScroll: true });
}

if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  nothing.querySelector("button").addEventListener("click", () => form.reset());
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.more");
    if (button) toggle(button, button.getAttribute("aria-expanded") !== "true");
  });
  addEventListener("hashchange", follow);
  filter();
  follow();
}
document.documentElement.dataset.ready = "yes";
