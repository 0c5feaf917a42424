-- Rows and indexes in memory.
CREATE TABLE item(id INTEGER PRIMARY KEY, name TEXT, kind INTEGER, price REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 120000)
INSERT INTO item SELECT i, 'item ' || (i * 7919 % 100003) || hex(i), i % 137, i * 0.25 FROM n;
CREATE INDEX by_name ON item(name);
CREATE INDEX by_kind ON item(kind, price);
SELECT count(*), sum(price), max(name) FROM item;
SELECT kind, count(*), group_concat(substr(name, 1, 9)) FROM item WHERE kind < 3 GROUP BY kind ORDER BY 2 DESC, 1 LIMIT 1;
UPDATE item SET name = upper(name) || kind WHERE kind % 3 = 0;
SELECT count(DISTINCT substr(name, -4)), min(name) FROM item;
SELECT count(*) FROM item a JOIN item b ON b.name = a.name || a.kind;
DELETE FROM item WHERE kind % 2 = 0;
SELECT count(*), total(length(name)) FROM item;
