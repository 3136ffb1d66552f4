"""Downloads: files of Hugging Face, S3, OBS, volumes and folders, fetched by a child process that can be killed.

`planner`, `validation`, `cache_keys` and `layout` decide, `worker` with its `backends` fetches, `worker_process`
watches one worker, `downloads` has them all. Nothing here knows adapters or engines; heavy libraries are imported by
the worker only.
"""
