BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0006');
CREATE TABLE answers (
	annotation_id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	annotator INTEGER, 
	was_cancelled BOOLEAN NOT NULL, 
	ground_truth BOOLEAN NOT NULL, 
	lead_time FLOAT, 
	result TEXT NOT NULL, 
	shown TEXT, 
	updated_at DATETIME, 
	PRIMARY KEY (annotation_id)
);
INSERT INTO "answers" VALUES(11,7,3,1,0,0,4.0,'[{"id": "b1"}]',NULL,'2026-01-03 00:00:00.000000');
CREATE TABLE api_keys (
	id VARCHAR(12) NOT NULL, 
	name VARCHAR(100) NOT NULL, 
	secret_hash VARCHAR(64) NOT NULL, 
	may_write BOOLEAN NOT NULL, 
	projects TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	last_used_at DATETIME, 
	PRIMARY KEY (id)
);
INSERT INTO "api_keys" VALUES('3450cb35247d','old','8b9d37789e64efe4d17729664f1fd6c07a62f7c8c490b4d7657210569ae48d03',1,'null','2026-11-26 23:31:01.014296',NULL,NULL,NULL);
CREATE TABLE detectors (
	version VARCHAR(64) NOT NULL, 
	class_names TEXT NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "detectors" VALUES('d1','["bolt", "nut"]');
CREATE TABLE embeddings (
	image_hash VARCHAR(64) NOT NULL, 
	encoder VARCHAR(200) NOT NULL, 
	"view" VARCHAR(100) NOT NULL, 
	vector BLOB NOT NULL, 
	PRIMARY KEY (image_hash, encoder, "view")
);
INSERT INTO "embeddings" VALUES('hash1','e1','image',X'0000003C00000000');
INSERT INTO "embeddings" VALUES('hash2','e1','image',X'00000000003C0000');
INSERT INTO "embeddings" VALUES('hash3','e1','image',X'000000000000003C');
CREATE TABLE held_out (
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	marked_at DATETIME NOT NULL, 
	PRIMARY KEY (project_id, task_id)
);
INSERT INTO "held_out" VALUES(7,2,'2026-11-26 23:31:01.005043');
CREATE TABLE jobs (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	project_id INTEGER NOT NULL, 
	kind VARCHAR(20) NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	payload TEXT NOT NULL, 
	"exclusive" VARCHAR(60) NOT NULL, 
	due_at DATETIME NOT NULL, 
	owner VARCHAR(120) NOT NULL, 
	heartbeat_at DATETIME, 
	attempts INTEGER NOT NULL, 
	cancel_requested BOOLEAN NOT NULL, 
	doing VARCHAR(60) NOT NULL, 
	done INTEGER NOT NULL, 
	total INTEGER NOT NULL, 
	phase_started_at DATETIME, 
	phase_started_with INTEGER NOT NULL, 
	notes TEXT NOT NULL, 
	result TEXT NOT NULL, 
	error TEXT NOT NULL, 
	log TEXT NOT NULL, 
	created_at DATETIME NOT NULL, 
	started_at DATETIME, 
	finished_at DATETIME
);
CREATE TABLE kept (
	name VARCHAR(60) NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "kept" VALUES('put first in project 7','{"first": [2], "led": [2]}');
CREATE TABLE pools (
	project_id INTEGER NOT NULL, 
	ranked_at DATETIME NOT NULL, 
	detector VARCHAR(64) NOT NULL, 
	encoder VARCHAR(200) NOT NULL, 
	options TEXT NOT NULL, 
	validation_share FLOAT NOT NULL, 
	tasks BLOB NOT NULL, 
	PRIMARY KEY (project_id)
);
CREATE TABLE promotions (
	id INTEGER NOT NULL, 
	project_id INTEGER NOT NULL, 
	version VARCHAR(40) NOT NULL, 
	promoted_at DATETIME NOT NULL, 
	withdrawn BOOLEAN NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "promotions" VALUES(1,7,'r1-abc','2026-11-26 23:31:01.020401',0);
CREATE TABLE publications (
	model_version VARCHAR(100) NOT NULL, 
	project_id INTEGER NOT NULL, 
	state VARCHAR(20) NOT NULL, 
	detector VARCHAR(64) NOT NULL, 
	encoder VARCHAR(200) NOT NULL, 
	strategy VARCHAR(40) NOT NULL, 
	diversity_weight FLOAT NOT NULL, 
	strategy_weights TEXT NOT NULL, 
	ranked INTEGER NOT NULL, 
	created_at DATETIME NOT NULL, replaced_at DATETIME, 
	PRIMARY KEY (model_version)
);
INSERT INTO "publications" VALUES('hf-20260102-030405-000-ab12-d1',7,'live','d1','e1','entropy',0.4,'{"entropy": 1.0}',3,'2026-01-02 03:04:05.000000',NULL);
CREATE TABLE ranks (
	model_version VARCHAR(100) NOT NULL, 
	rank INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	uncertainty_score FLOAT NOT NULL, 
	PRIMARY KEY (model_version, rank)
);
INSERT INTO "ranks" VALUES('hf-20260102-030405-000-ab12-d1',1,3,0.1);
INSERT INTO "ranks" VALUES('hf-20260102-030405-000-ab12-d1',2,1,0.5);
INSERT INTO "ranks" VALUES('hf-20260102-030405-000-ab12-d1',3,2,0.9);
CREATE TABLE rounds (
	project_id INTEGER NOT NULL, 
	round INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	state VARCHAR(12) NOT NULL, 
	version VARCHAR(40) NOT NULL, 
	content_hash VARCHAR(64) NOT NULL, 
	detector VARCHAR(64) NOT NULL, 
	labels INTEGER NOT NULL, 
	boxes INTEGER NOT NULL, 
	judged_on INTEGER NOT NULL, 
	judgement TEXT NOT NULL, 
	promoted BOOLEAN NOT NULL, 
	reason TEXT NOT NULL, 
	seconds FLOAT NOT NULL, 
	created_at DATETIME NOT NULL, 
	PRIMARY KEY (project_id, round)
);
INSERT INTO "rounds" VALUES(7,1,5,'judged','r1-abc','c','d2',40,0,9,'{}',1,'better',60.0,'2026-11-26 23:31:01.018219');
CREATE TABLE scores (
	project_id INTEGER NOT NULL, 
	task_id INTEGER NOT NULL, 
	detector VARCHAR(64) NOT NULL, 
	image_uri TEXT NOT NULL, 
	image_hash VARCHAR(64) NOT NULL, 
	width INTEGER NOT NULL, 
	height INTEGER NOT NULL, 
	boxes INTEGER NOT NULL, 
	classes INTEGER NOT NULL, 
	peak_score FLOAT NOT NULL, 
	detections BLOB NOT NULL, 
	lowest_confidence FLOAT NOT NULL, 
	margin_sampling FLOAT NOT NULL, 
	entropy FLOAT NOT NULL, 
	scored_at DATETIME NOT NULL, class_weight FLOAT DEFAULT '1' NOT NULL, 
	PRIMARY KEY (project_id, task_id, detector)
);
INSERT INTO "scores" VALUES(7,1,'d1','/data/upload/1.jpg','hash1',640,480,2,2,0.9,X'7801635009D56C300C356700011B061B636B0613060B0603002F040362',0.25,0.75,0.5,'2026-11-26 23:31:00.998245',1.0);
INSERT INTO "scores" VALUES(7,2,'d1','/data/upload/2.jpg','hash2',640,480,2,2,0.9,X'7801635009D56C300C356700011B061B636B0613060B0603002F040362',0.25,0.75,0.9,'2026-11-26 23:31:00.998245',1.0);
INSERT INTO "scores" VALUES(7,3,'d1','/data/upload/3.jpg','hash3',640,480,2,2,0.9,X'7801635009D56C300C356700011B061B636B0613060B0603002F040362',0.25,0.75,0.1,'2026-11-26 23:31:00.998245',1.0);
CREATE TABLE watched (
	project_id INTEGER NOT NULL, 
	polled_at DATETIME, 
	read_until DATETIME, 
	PRIMARY KEY (project_id)
);
INSERT INTO "watched" VALUES(7,NULL,NULL);
CREATE INDEX publications_of_project ON publications (project_id, state);
CREATE INDEX ranks_of_task ON ranks (model_version, task_id);
CREATE UNIQUE INDEX one_job_waits ON jobs (project_id, kind) WHERE state = 'queued' AND started_at IS NULL;
CREATE UNIQUE INDEX one_job_runs ON jobs ("exclusive") WHERE state = 'running';
CREATE INDEX jobs_of_project ON jobs (project_id, id);
CREATE INDEX answers_of_task ON answers (project_id, task_id);
CREATE INDEX promotions_of_project ON promotions (project_id, id);
CREATE UNIQUE INDEX one_key_of_a_name ON api_keys (name) WHERE revoked_at IS NULL;
DELETE FROM "sqlite_sequence";
COMMIT;
